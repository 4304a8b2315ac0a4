"""From a training set to a registered candidate with its gate report."""
