"""Networks only: no losses, no optimisers, no data."""
