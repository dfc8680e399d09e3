"""Room between heads and results: training in the network itself, where stored features are not enough."""
