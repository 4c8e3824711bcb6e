//go:build !unix

package main

import "os"

// whenUnread is for systems that tell of a closed pipe only when it is written
// to.
func whenUnread(*os.File, func()) {}
