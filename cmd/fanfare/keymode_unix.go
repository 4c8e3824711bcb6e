//go:build unix

package main

import "io/fs"

// readable reports whether a file can be read by everybody.
func readable(mode fs.FileMode) bool { return mode.Perm()&0o007 != 0 }
