"""Legacy models: pickles of other systems, verified, opened in a cage and turned into bundles."""
