"""The typed configuration: its schema, its composition by Hydra, the checks that cross its parts."""
