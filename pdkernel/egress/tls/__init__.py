"""TLS of the gateway: its certificates, and parsing of a client's ClientHello."""
