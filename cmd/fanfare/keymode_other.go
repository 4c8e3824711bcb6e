//go:build !unix

package main

import "io/fs"

// readable is false: here modes say nothing of who may read a file.
func readable(fs.FileMode) bool { return false }
