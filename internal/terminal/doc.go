// Package terminal is the screen of `fanfare connect`: what arrives scrolls
// above, the line being typed stays below and is never torn, and one line
// between them says how the connection is.
//
// It knows no sockets. Whoever owns the connection calls [Screen.Text]
// or [Screen.Said], [Screen.Status] and their like from any goroutine;
// what the person types comes out of Options.Send.
//
// # Strangers
//
// Everything that arrives was written by a stranger. [Printable] turns whatever
// could drive a terminal (escape sequences, control characters, characters that
// turn the direction of writing) into something visible, and the screen shows
// nothing that has not been through it.
package terminal
