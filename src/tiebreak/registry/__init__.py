"""Registry: which policy is in production, who put it there, and policies ready to decide."""
