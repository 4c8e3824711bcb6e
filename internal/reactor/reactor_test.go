//go:build linux && !386 && !s390x

package reactor_test

import (
	"testing"

	"fanfare/internal/reactor"
	"fanfare/internal/transport"
	"fanfare/internal/transport/transporttest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fresh(o transport.Options) transport.Transport {
	r, err := reactor.New(o)
	if err != nil {
		panic(err)
	}
	return r
}

func TestTransport(t *testing.T) { transporttest.Run(t, fresh) }
