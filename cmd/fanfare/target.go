package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// home is where a client goes that is not told where to: `fanfare serve` as it
// comes.
const home = "ws://localhost:8765/"

// targetHelp explains what parseTarget understands.
const targetHelp = `The URL may be short: chat/general is that channel on localhost:8765,
localhost:9000/chat is ws://localhost:9000/chat, and http:// and https:// mean
ws:// and wss://. A host without a scheme needs its port, or it would be a
channel's name; localhost and addresses without one have 8765. A Unix socket is ws+unix:///path/to.sock:/chat.`

// parseTarget makes a WebSocket URL of what a person types; see targetHelp.
func parseTarget(arg string) (*url.URL, error) {
	if arg == "" {
		arg = home
	}
	scheme, rest, ok := strings.Cut(arg, "://")
	switch {
	case ok:
		switch strings.ToLower(scheme) {
		case "ws", "wss":
		case "ws+unix", "wss+unix":
			u, err := url.Parse(arg)
			if err != nil || u.Host != "" || u.Path == "" {
				return nil, fmt.Errorf("%q is not a Unix socket's URL, which is written ws+unix:///path/to.sock:/channel", bare(arg))
			}
			return u, nil
		case "http":
			arg = "ws://" + rest
		case "https":
			arg = "wss://" + rest
		default:
			return nil, fmt.Errorf("%q: the scheme %s is not one of ws, wss, http, https and ws+unix", bare(arg), scheme)
		}
	case startsWithHost(arg):
		end := len(arg)
		if i := strings.IndexAny(arg, "/?"); i >= 0 {
			end = i
		}
		if _, _, err := net.SplitHostPort(arg[:end]); err != nil {
			// Nobody who leaves out scheme and port means port 80 of this machine.
			arg = net.JoinHostPort(strings.Trim(arg[:end], "[]"), "8765") + arg[end:]
		}
		arg = "ws://" + arg
	default:
		u, err := url.Parse(home)
		if err != nil {
			return nil, err
		}
		path, query, _ := strings.Cut(strings.TrimPrefix(arg, "/"), "?")
		u.Path, u.RawQuery = "/"+path, query
		if unescaped, err := url.PathUnescape(path); err == nil {
			u.Path = "/" + unescaped
		}
		return u, nil
	}
	u, err := url.Parse(arg)
	if err != nil {
		var why *url.Error
		if errors.As(err, &why) {
			err = why.Err
		}
		return nil, fmt.Errorf("%q is not a URL: %v", bare(arg), err)
	}
	if u.Host == "" {
		return nil, fmt.Errorf("%q names no host: write for example %s", bare(arg), home)
	}
	if u.Fragment != "" {
		// RFC 6455, section 3: a WebSocket URL has no fragment.
		return nil, fmt.Errorf("%q has a #fragment, which a WebSocket URL must not have; write a # in a channel's name as %%23", bare(arg))
	}
	if u.Path == "" {
		u.Path = "/"
	}
	return u, nil
}

// bare is what was typed without the password and the query, which may carry a token.
func bare(arg string) string {
	arg, _, _ = strings.Cut(arg, "?")
	scheme, rest, ok := strings.Cut(arg, "://")
	if !ok {
		return arg
	}
	host, path, slash := strings.Cut(rest, "/")
	if at := strings.LastIndex(host, "@"); at >= 0 {
		host = host[at+1:]
	}
	if slash {
		path = "/" + path
	}
	return scheme + "://" + host + path
}

// startsWithHost reports whether arg begins with a host rather than a channel:
// something with a port, localhost, or an IP address.
func startsWithHost(arg string) bool {
	first, _, _ := strings.Cut(arg, "/")
	first, _, _ = strings.Cut(first, "?")
	if first == "localhost" {
		return true
	}
	if _, err := netip.ParseAddr(strings.Trim(first, "[]")); err == nil {
		return true
	}
	host, port, err := net.SplitHostPort(first)
	if err != nil || host == "" {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// visible is the URL as it may be shown and logged: without a password, and
// without the query, which may carry a token.
func visible(u *url.URL) string {
	v := *u
	v.User, v.RawQuery, v.ForceQuery = nil, "", false
	if s, err := url.PathUnescape(v.String()); err == nil {
		return s
	}
	return v.String()
}
