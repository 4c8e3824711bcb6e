package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// maxProfile is how long the making of an answer may take on the operators'
// address: a profile takes up to a minute.
const maxProfile = 2 * time.Minute

// adminAddress reads --admin-listen: an address as of --listen, or nothing.
func adminAddress(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	return listenAddress(text)
}

// onlyOperators returns an error unless the operators' address is this machine's only, or
// that others reach it is meant.
func (s *settings) onlyOperators() error {
	if s.adminListen == "" || s.adminOpen || onlyLocal(s.adminListen) == nil {
		return nil
	}
	return usage(fmt.Errorf("--admin-listen %s: others may reach it, and nobody is asked there who he is: everyone could read metrics and profiles, and end anybody's access. "+
		"Either keep it to this machine (--admin-listen 127.0.0.1:8766), or say with --admin-open that only operators reach this address; the role admin sees the same pages on the address of the channels", s.adminListen))
}

// administer serves the operators' pages on an address of their own, as long as stop was not
// called.
func (s *service) administer(address string, t timeouts) (at net.Addr, stop func(), err error) {
	listener, err := listen(address)
	if err != nil {
		return nil, nil, fmt.Errorf("the operators' address: %w", err)
	}
	t.answer = max(t.answer, maxProfile)
	server := newHTTPServer(s.server.Admin(), s.log, t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the operators' address is no longer served", "error", err)
		}
	}()
	return listener.Addr(), func() {
		// What is being answered has a moment: the last scrape is worth it.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		<-ended
	}, nil
}
