"""`variet smoke`: is the stack of this host doing its work? Every promise is tried once."""
