"""Where the credentials of the service come from."""
