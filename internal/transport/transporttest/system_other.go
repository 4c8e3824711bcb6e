//go:build !linux

package transporttest

// ofThisSystem are laws that need to know what the system does.
var ofThisSystem []law
