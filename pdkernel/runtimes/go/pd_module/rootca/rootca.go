// Package rootca has Go's default HTTP transport trust the certificate of the project.
//
// For systems on which Go does not read SSL_CERT_FILE (macOS). The way to the gateway itself is in the proxy variables,
// which Go reads everywhere. A transport of the step's own is not reached.
package rootca

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
)

func init() {
	certificate, err := os.ReadFile(os.Getenv("PD_CA"))
	transport, ok := http.DefaultTransport.(*http.Transport)
	if err != nil || !ok {
		return
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	roots.AppendCertsFromPEM(certificate)
	transport.TLSClientConfig = &tls.Config{RootCAs: roots}
}
