package main

import (
	"errors"
	"fmt"
	"io"
	"regexp"

	"roster/cmd/roster/internal/manifest"
	"roster/cmd/roster/internal/show"
	"roster/store"
)

// The exit codes, as the documentation has them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInvalid     = 3
	exitConflict    = 4
	exitUnavailable = 5
	exitWaiting     = 6 // --wait timed out
)

// codeError is an error that ends the program with a code of its own.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

// withCode gives an error a code; nil stays nil.
func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &codeError{code, err}
}

// endedError is the exit code of a program that ran in our place. Nothing is to be said.
type endedError int

func (e endedError) Error() string { return fmt.Sprintf("it ended with exit code %d", int(e)) }

func usage(format string, args ...any) error {
	return withCode(exitUsage, fmt.Errorf(format, args...))
}

// privateKey is one in PEM, as it is or quoted, to its end or that of the text.
var privateKey = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`)

// secretless is a message that may quote the command line without a key in it, lest that
// gets into the log of whatever runs the command.
func secretless(s string) string { return privateKey.ReplaceAllLiteralString(s, "(a private key)") }

// failure is an error in JSON.
type failure struct {
	Code   int      `json:"code"`
	Errors []string `json:"errors"`
}

// reportJSON prints an error as JSON on one line, and returns the exit code for it.
func reportJSON(w io.Writer, err error) int {
	code := report(io.Discard, err)
	var ended endedError
	if err == nil || errors.As(err, &ended) {
		return code
	}
	out := failure{Code: code}
	for _, err := range manifest.Each(err) {
		out.Errors = append(out.Errors, secretless(err.Error()))
	}
	if line, err := show.Line(out); err == nil {
		w.Write(line)
	}
	return code
}

// report prints an error, one fault a line, and returns the exit code for it.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitDone
	}
	var ended endedError
	if errors.As(err, &ended) {
		return int(ended)
	}
	for _, err := range manifest.Each(err) {
		fmt.Fprintf(w, "roster: %s\n", secretless(err.Error()))
	}
	var coded *codeError
	switch {
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(err, store.ErrConflict):
		return exitConflict
	case errors.Is(err, store.ErrUnavailable):
		return exitUnavailable
	}
	return exitFailed
}
