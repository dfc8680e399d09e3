"""Room four: what comes of trained heads: scores and predictions."""
