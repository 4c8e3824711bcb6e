package main

import "errors"

// The exit codes, which scripts may rely on.
const (
	exitFine    = 0
	exitOther   = 1 // whatever the others do not say
	exitUsage   = 2 // the command line, the environment or the configuration file is wrong
	exitConnect = 4 // no connection came about
	exitClosed  = 5 // a connection was closed, and not as it should
)

// An exitError is an error that knows its exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func usage(err error) error { return &exitError{exitUsage, err} }

// exitCode returns the code that err ends the program with.
func exitCode(err error) int {
	var e *exitError
	switch {
	case err == nil:
		return exitFine
	case errors.As(err, &e):
		return e.code
	}
	return exitOther
}
