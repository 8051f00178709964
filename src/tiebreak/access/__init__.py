"""Who may do what: persons, the API keys they own, and the roles a key carries."""
