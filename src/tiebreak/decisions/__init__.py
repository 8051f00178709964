"""Serving decisions: gather, admit, decide, commit; recover, read and replay them."""
