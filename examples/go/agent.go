// A skeleton of an agent in Go, with the standard library alone: it speaks the lines of docs/agent-protocol.md.
//
//	go build -o agent-go . && AGENT_COMMAND=./agent-go make up
//
// Where it says "join", an agent joins the room `url` with its token, by github.com/livekit/server-sdk-go, and says what
// it sees there. This one only says it: LiveKit does not find it in the room, and after a while another one takes over.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
)

// Turn is one thing that was said.
type Turn struct {
	Role string  `json:"role"`
	Text string  `json:"text"`
	At   float64 `json:"at,omitempty"`
}

// In is a message to this program. Each type has some of the fields.
type In struct {
	Type         string         `json:"type"`
	SessionID    string         `json:"sessionId"`
	Room         string         `json:"room"`
	URL          string         `json:"url"`
	Token        string         `json:"token"`
	UserID       string         `json:"userId"`
	Metadata     map[string]any `json:"metadata"`
	Takeovers    int            `json:"takeovers"`
	Conversation []Turn         `json:"conversation"`
	Seconds      float64        `json:"seconds"`
	Reason       string         `json:"reason"`
	N            int            `json:"n"`
}

// Message is a message from this program.
type Message map[string]any

// link opens the socket that AGENT_FD names. A program that does not print anything else may use its standard streams.
func link() *os.File {
	number, err := strconv.Atoi(os.Getenv("AGENT_FD"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "AGENT_FD is not set: start this program by AGENT_COMMAND")
		os.Exit(2)
	}
	return os.NewFile(uintptr(number), "agent")
}

func main() {
	socket := link()
	out := json.NewEncoder(socket) // one line for each message; one goroutine at a time
	say := func(message Message) { _ = out.Encode(message) }
	say(Message{"type": "ready"})
	in := bufio.NewReader(socket)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			os.Exit(1) // the agent's process is gone
		}
		var message In
		if json.Unmarshal(line, &message) != nil {
			continue
		}
		switch message.Type {
		case "ping":
			say(Message{"type": "pong", "n": message.N})
		case "assign":
			serve(message, say)
		case "goodbye":
			fmt.Printf("%.0f s are left\n", message.Seconds)
			say(Message{"type": "leave", "reason": "said goodbye"})
		case "stop":
			fmt.Println("stops:", message.Reason)
			os.Exit(0)
		}
	}
}

// serve joins the room, and says who is there and what is said.
func serve(session In, say func(Message)) {
	fmt.Printf("serves %s, takeovers: %d, turns until now: %d\n", session.UserID, session.Takeovers, len(session.Conversation))
	say(Message{"type": "joined"})
	say(Message{"type": "user", "present": true})
	say(Message{"type": "turn", "role": "agent", "text": "Hello, " + session.UserID + "."})
	say(Message{"type": "audible"})
}
