"""What there is to see of a workspace, as one page of HTML."""
