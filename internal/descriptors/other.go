//go:build !unix

package descriptors

// Open has nothing to open.
func Open() {}

// Limit is 0: no limit is known.
func Limit() int { return 0 }

// InUse is 0: it is not known.
func InUse() int { return 0 }
