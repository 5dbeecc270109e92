// Package rootca makes Go's default HTTP transport trust the project's certificate.
//
// It is needed on systems on which Go does not read SSL_CERT_FILE (macOS). The address of the gateway is in the proxy variables,
// which Go reads on every system. A transport that the step creates itself is not changed.
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
