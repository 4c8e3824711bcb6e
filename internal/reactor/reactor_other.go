//go:build !linux || 386 || s390x

package reactor

import (
	"errors"

	"fanfare/internal/transport"
)

// New returns [errors.ErrUnsupported]: this system has no epoll, or none that is
// called like others.
func New(transport.Options) (transport.Transport, error) { return nil, errors.ErrUnsupported }
