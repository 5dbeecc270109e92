"""The sandbox: on Linux, the operating system redirects or refuses calls that the hooks and proxy variables miss."""
