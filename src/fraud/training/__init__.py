"""Training sets, training, evaluation against the gates, reports and reproduction."""
