"""What is lost made anew: a drive, the catalog, the workspace."""
