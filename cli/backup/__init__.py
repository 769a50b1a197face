"""`variet backup` and `variet restore`: all that a host would miss, in one archive."""
