// Command bot is in many rooms at once: it reads every channel that fits a
// pattern over one connection, and answers where it is asked.
//
//	go run ./examples/bot                                  # all channels chat/…
//	go run ./examples/bot ws://localhost:8765 'games/**'
//	curl --data '!roll 2d6' localhost:8765/chat/general    # and see it there
//
// Where a server asks who it is, FANFARE_TOKEN in the environment says so.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"time"

	"fanfare/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	url, pattern := "ws://localhost:8765", "chat/**"
	for i, given := range []*string{&url, &pattern}[:min(2, len(os.Args)-1)] {
		*given = os.Args[i+1]
	}
	if err := run(ctx, url, pattern); err != nil {
		log.Fatal(err)
	}
}

// run answers until ctx ends, over as many connections as it takes: what was
// asked while there was none is answered then.
func run(ctx context.Context, url, pattern string) error {
	c, err := client.Dial(ctx, url, &client.Options{Name: "bot", Token: client.StaticToken(os.Getenv("FANFARE_TOKEN"))})
	if err != nil {
		return err
	}
	defer c.Close()
	me := cmp.Or(c.State().Subject, "bot") // a token knows better
	questions, err := c.Subscribe(ctx, pattern, nil)
	if err != nil {
		return err
	}
	go func() {
		for state := range c.States(ctx) {
			log.Print(state.Phase)
		}
	}()
	for m, err := range questions.Messages(ctx) {
		var gap *client.GapError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &gap):
			log.Printf("%d questions are gone: %s", gap.Missed, gap.Reason)
			continue
		case err != nil:
			return err
		case m.Sender == me:
			continue
		}
		if answer := answer(ctx, c, m.Channel, string(m.Bytes())); answer != "" {
			if _, err := c.Send(m.Channel, answer, nil); err != nil {
				log.Print(err)
			}
		}
	}
	return nil
}

// answer returns what the bot says to a text; empty: nothing.
func answer(ctx context.Context, c *client.Client, channel, text string) string {
	word, rest, _ := strings.Cut(text, " ")
	switch word {
	case "!time":
		return time.Now().UTC().Format("It is 15:04 UTC.")
	case "!roll":
		count, sides := 1, 6
		if _, err := fmt.Sscanf(rest, "%dd%d", &count, &sides); rest != "" && err != nil || count < 1 || count > 100 || sides < 1 {
			return "Say !roll 2d6 for two dice with six sides."
		}
		sum := 0
		for range count {
			sum += 1 + rand.IntN(sides)
		}
		return fmt.Sprintf("%dd%d: %d", count, sides, sum)
	case "!who":
		here, err := c.Presence(ctx, channel, 0)
		if err != nil {
			return "I cannot tell: " + err.Error()
		}
		return fmt.Sprintf("%d here.", here.Count)
	}
	return ""
}
