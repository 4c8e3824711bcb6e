package fanfare

import "fanfare/internal/feed"

// retention is what the feed of a channel keeps by the settings of the moment.
func (s *Server) retention(channel string) feed.Retention {
	settings := s.now.Load().channel(channel)
	return settings.retention()
}
