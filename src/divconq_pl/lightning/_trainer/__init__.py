"""Every private part of a Trainer that this package touches."""
