// Package pd gives a Go step the exports of the steps above it, and stores its own exports.
//
// It is written from the published description of Pipedream's helper and has the same import path, so that a step
// compiles in both. It uses the platform's files $PIPEDREAM_STEPS and $PIPEDREAM_EXPORTS, and pdkernel's additions
// $PIPEDREAM_ACCOUNTS and $PIPEDREAM_RESPONSE.
package pd

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
)

// Names of the environment variables that hold the paths of the files.
const (
	StepsEnv    = "PIPEDREAM_STEPS"
	ExportsEnv  = "PIPEDREAM_EXPORTS"
	AccountsEnv = "PIPEDREAM_ACCOUNTS"
	ResponseEnv = "PIPEDREAM_RESPONSE"
)

// Steps holds the exports of each step above, by the step's name; the event is Steps["trigger"].
//
// parity[go-values]: numbers in Steps are float64, so whole numbers beyond 2^53 lose digits; read such numbers with Unmarshal into a
// field of type int64. A map that is exported has its keys sorted.
var Steps map[string]interface{}

// Accounts holds the credentials of the step's connected accounts, by app and field. On Pipedream, Go steps have no accounts.
var Accounts map[string]map[string]string

var (
	text    []byte
	writing sync.Mutex
)

func init() {
	text = read(StepsEnv)
	MustUnmarshal(&Steps)
	if err := json.Unmarshal(read(AccountsEnv), &Accounts); err != nil {
		panic(err)
	}
}

// Unmarshal fills v, a pointer, from the JSON object that holds all of Steps.
func Unmarshal(v interface{}) error {
	return json.Unmarshal(text, v)
}

// MustUnmarshal calls Unmarshal, and panics if it returns an error.
func MustUnmarshal(v interface{}) {
	if err := Unmarshal(v); err != nil {
		panic(err)
	}
}

// Export exports value to the steps below as steps.<name>. It panics if value cannot be encoded as JSON or cannot be written.
func Export(name string, value interface{}) {
	if name == "" || strings.ContainsAny(name, "=\r\n") {
		panic(fmt.Errorf("pd.Export(%q): the name must not be empty and must not contain = or a line break", name))
	}
	line, err := json.Marshal(value)
	if err == nil {
		err = add(ExportsEnv, append([]byte(name+":json="), line...))
	}
	if err != nil {
		panic(fmt.Errorf("pd.Export(%q): %w", name, err))
	}
}

// Respond sets the response to the HTTP request that started the workflow; it is sent when the step has ended. A string or []byte
// body is sent unchanged, any other body as JSON. If it is called several times, the first response is sent. It panics if the body
// cannot be encoded as JSON. On Pipedream, Go steps cannot respond.
func Respond(status int, headers map[string]string, body interface{}) {
	if raw, ok := body.([]byte); ok {
		body = map[string]string{"$base64": base64.StdEncoding.EncodeToString(raw)}
	}
	if headers == nil {
		headers = map[string]string{}
	}
	line, err := json.Marshal(map[string]interface{}{"status": status, "headers": headers, "body": body})
	if err == nil {
		err = add(ResponseEnv, line)
	}
	if err != nil {
		panic(fmt.Errorf("pd.Respond: %w", err))
	}
}

// read returns the JSON in the file that the variable names; null if the file does not exist or is empty.
func read(variable string) []byte {
	found, err := os.ReadFile(os.Getenv(variable))
	if err != nil || len(bytes.TrimSpace(found)) == 0 {
		return []byte("null")
	}
	return found
}

// add appends a line to the file that the variable names.
func add(variable string, line []byte) error {
	writing.Lock()
	defer writing.Unlock()
	file, err := os.OpenFile(os.Getenv(variable), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err = file.Write(append(line, '\n')); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}
