package main

import "testing"

func TestSettingsInTheURL(t *testing.T) {
	u, err := (&dialFlags{name: "a b", slow: "latest"}).target("ws://example.com/x?slow=skip&token=t")
	if err != nil || u.String() != "ws://example.com/x?name=a+b&slow=latest&token=t" {
		t.Errorf("%v %v", u, err)
	}
	if u, err = new(dialFlags).target("ws://example.com/x?b=%20&a"); err != nil || u.String() != "ws://example.com/x?b=%20&a" {
		t.Errorf("without settings the URL became %v %v", u, err)
	}
}
