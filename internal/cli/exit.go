package cli

import (
	"context"
	"errors"
	"fmt"
	"net"

	"connectrpc.com/connect"

	"cardea/internal/identity"
)

// Exit is what the process answers to the shell. The numbers are a promise to scripts; docs/cli.md lists them.
type Exit int

const (
	OK          Exit = 0
	Failed      Exit = 1
	Usage       Exit = 2
	Denied      Exit = 3
	Pending     Exit = 4
	Unavailable Exit = 5
	Identity    Exit = 6
	NotFound    Exit = 7
	Conflict    Exit = 8
	Internal    Exit = 9
	Interrupted Exit = 130
)

// ExitMeaning is one row of the documented table.
type ExitMeaning struct {
	Exit    Exit
	Word    Safe
	Meaning Safe
}

// ExitTable lists every exit code, lowest first.
func ExitTable() []ExitMeaning {
	return []ExitMeaning{
		{OK, "ok", "done, and the answer is yes"},
		{Failed, "failed", "done, and the answer is no: a run faulted or was cancelled, findings, an approval refused, a proof that does not hold"},
		{Usage, "usage", "the command, a flag or a file makes no sense as given"},
		{Denied, "denied", "policy or the hub says no to this person, or to a task of the run that was waited for"},
		{Pending, "pending", "waiting for people's signatures, or the time given ran out first"},
		{Unavailable, "unavailable", "the hub cannot be reached or has too much to do; the same command may work later"},
		{Identity, "identity", "no usable profile, or the hub does not recognise this person"},
		{NotFound, "not-found", "there is no such thing, or not for this person"},
		{Conflict, "conflict", "what the command started from has changed; look again and repeat"},
		{Internal, "internal", "a bug, or an answer that makes no sense"},
		{Interrupted, "interrupted", "stopped by Ctrl-C; what the hub was doing goes on"},
	}
}

// Word is the code's name in JSON errors.
func (e Exit) Word() Safe {
	for _, row := range ExitTable() {
		if row.Exit == e {
			return row.Word
		}
	}
	return "internal"
}

// fromCode maps what a hub answers to what the shell sees. A code that is not listed is a bug's.
func fromCode(c connect.Code) Exit {
	switch c {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		return Usage
	case connect.CodePermissionDenied:
		return Denied
	case connect.CodeDeadlineExceeded:
		return Pending
	case connect.CodeUnavailable, connect.CodeResourceExhausted:
		return Unavailable
	case connect.CodeUnauthenticated:
		return Identity
	case connect.CodeNotFound:
		return NotFound
	case connect.CodeAlreadyExists, connect.CodeFailedPrecondition, connect.CodeAborted:
		return Conflict
	case connect.CodeCanceled:
		return Interrupted
	}
	return Internal
}

// Error is a refusal or failure as people read it: one sentence, and what would mend it.
type Error struct {
	Exit Exit
	Text Safe
	Mend Safe
	// Shown is true when the output already says what is wrong and only the exit code is left to give.
	Shown bool
	cause error
}

func (e *Error) Error() string {
	if e.Mend == "" {
		return string(e.Text)
	}
	return string(e.Text) + " (" + string(e.Mend) + ")"
}

func (e *Error) Unwrap() error { return e.cause }

// Because attaches the cause that errors.Is and errors.As may look for.
func (e *Error) Because(cause error) *Error {
	e.cause = cause
	return e
}

// Fail makes an Error. format and args are as for F.
func Fail(exit Exit, mend, format Safe, args ...any) *Error {
	return &Error{Exit: exit, Text: F(format, args...), Mend: mend}
}

// Quiet is an Error whose words are already on the screen.
func Quiet(exit Exit) *Error { return &Error{Exit: exit, Text: exit.Word(), Shown: true} }

// Explain turns any error into the one that people see.
func Explain(err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	var stranger *identity.Refused
	if errors.As(err, &stranger) {
		return Fail(Identity, notThisHub, "what answers is not the console of the hub in this profile: %s", stranger.Error()).Because(err)
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" && dial.Addr != nil {
		return Fail(Unavailable, noHub, "no hub answers at %s", dial.Addr.String()).Because(err)
	}
	if errors.Is(err, context.Canceled) {
		return Fail(Interrupted, "", "interrupted").Because(err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Fail(Pending, "try again, or give more time with --timeout", "no answer in time").Because(err)
	}
	var remote *connect.Error
	if errors.As(err, &remote) {
		return explainRemote(remote)
	}
	return Fail(Failed, "", "%s", err.Error()).Because(err)
}

// noHub mends a hub that is away.
const noHub = "cardea doctor says what is missing; cardea dev starts a hub on this machine"

// notThisHub mends a failed pin: either the hub was made anew, or somebody else answers in its place.
const notThisHub = "if the hub was set up anew, use its new profile; if not, somebody else is answering"

func explainRemote(remote *connect.Error) *Error {
	exit := fromCode(remote.Code())
	text := remote.Message()
	if text == "" {
		text = fmt.Sprintf("the hub answered %q and said no more", remote.Code().String())
	}
	var mend Safe
	switch exit {
	case Unavailable:
		mend = noHub
	case Identity:
		mend = "cardea doctor checks the profile and the clock; a hub that was started anew needs its new profile"
	case Conflict:
		mend = "run the command again: it starts from the new state"
	}
	return Fail(exit, mend, "%s", text).Because(remote)
}
