"""A killed daemon, a lost or bent catalog, bent segments, lost drives: what must survive them."""
