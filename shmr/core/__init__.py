"""Pure decisions: extents, geometry, placement, victims, ACLs. Values in, values out."""
