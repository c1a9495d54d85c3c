"""Which networks of others' libraries run as integers: the page docs/networks.md, from a record per network."""
