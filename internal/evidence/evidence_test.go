package evidence

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"cardea/internal/permit"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const procedure = "/cardea.v1.Runs/Start"

func ticket() Ticket {
	aud := permit.Audience("cardea.local")
	return Ticket{ID: "tkt_1", Issuer: aud, Audience: aud, IssuedAt: now.Unix(), Expires: now.Add(TicketLife).Unix(),
		Person: "ana", Procedure: procedure, Request: BodyDigest([]byte("body"))}
}

func TestTicket(t *testing.T) {
	pub, key, _ := ed25519.GenerateKey(nil)
	keys := []ed25519.PublicKey{pub}
	token, err := SignTicket(ticket(), key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := VerifyTicket(token, keys, "cardea.local", procedure, []byte("body"), now)
	if err != nil || got.Person != "ana" {
		t.Fatalf("%+v, %v", got, err)
	}
	check := func(name, domain, procedure, body string, at time.Time, want error) {
		t.Run(name, func(t *testing.T) {
			if _, err := VerifyTicket(token, keys, domain, procedure, []byte(body), at); err == nil || want != nil && !errors.Is(err, want) {
				t.Fatalf("error %v, want %v", err, want)
			}
		})
	}
	check("another body", "cardea.local", procedure, "bodY", now, ErrBody)
	check("another procedure", "cardea.local", "/cardea.v1.Runs/Cancel", "body", now, ErrBody)
	check("another hub", "else", procedure, "body", now, nil)
	check("expired", "cardea.local", procedure, "body", now.Add(TicketLife), ErrExpired)
	long := ticket()
	long.Expires += 1
	token, _ = SignTicket(long, key)
	check("longer than a ticket lives", "cardea.local", procedure, "body", now, nil)
	token, _ = permit.SignJWS(permit.Type, ticket(), key)
	check("a permit's type", "cardea.local", procedure, "body", now, nil)
}

func TestProof(t *testing.T) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	token, err := NewProof(key, procedure, []byte("body"), now)
	if err != nil {
		t.Fatal(err)
	}
	_, thumb, err := VerifyProof(token, procedure, []byte("body"), now)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := NewProof(key, procedure, nil, now)
	if _, same, err := VerifyProof(again, procedure, nil, now); err != nil || same != thumb {
		t.Fatalf("one key, two thumbprints: %v", err)
	}
	foreign, _ := NewProof(other, procedure, []byte("body"), now)
	if _, different, err := VerifyProof(foreign, procedure, []byte("body"), now); err != nil || different == thumb {
		t.Fatalf("two keys, one thumbprint: %v", err)
	}
	for name, refuse := range map[string]func() error{
		"another body":      func() error { _, _, err := VerifyProof(token, procedure, []byte("bodY"), now); return err },
		"another procedure": func() error { _, _, err := VerifyProof(token, procedure+"x", []byte("body"), now); return err },
		"old": func() error {
			_, _, err := VerifyProof(token, procedure, []byte("body"), now.Add(2*ProofLife))
			return err
		},
		"from the future": func() error {
			_, _, err := VerifyProof(token, procedure, []byte("body"), now.Add(-2*ProofLife))
			return err
		},
		"another signature": func() error {
			parts := strings.Split(token, ".")
			parts[2] = strings.Split(foreign, ".")[2]
			_, _, err := VerifyProof(strings.Join(parts, "."), procedure, []byte("body"), now)
			return err
		},
		"empty": func() error { _, _, err := VerifyProof("", procedure, nil, now); return err },
	} {
		t.Run(name, func(t *testing.T) {
			if refuse() == nil {
				t.Fatal("accepted")
			}
		})
	}
}

func FuzzTicket(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	keys := []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
	token, _ := SignTicket(ticket(), key)
	f.Add(token, []byte("body"))
	f.Fuzz(func(t *testing.T, token string, body []byte) {
		if got, err := VerifyTicket(token, keys, "cardea.local", procedure, body, now); err == nil && got.Request != BodyDigest(body) {
			t.Fatal("a ticket for another request was accepted")
		}
	})
}

func FuzzProof(f *testing.F) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	token, _ := NewProof(key, procedure, []byte("body"), now)
	f.Add(token, []byte("body"))
	f.Fuzz(func(t *testing.T, token string, body []byte) {
		if p, _, err := VerifyProof(token, procedure, body, now); err == nil && p.Body != BodyDigest(body) {
			t.Fatal("a proof for another request was accepted")
		}
	})
}
