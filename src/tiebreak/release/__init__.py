"""Release: the way of a candidate into production and out of it, each step on record."""
