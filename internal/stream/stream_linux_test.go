package stream_test

import (
	"testing"

	"fanfare/internal/transport/transporttest"
)

// The last words reach a peer that is frozen, over a Unix socket, too.
func TestThawOverUnix(t *testing.T) { transporttest.Thaw(t, fresh, unix, 64<<10) }
