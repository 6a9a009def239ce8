package permit

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func sample() Permit {
	aud := Audience("cardea.local")
	return Permit{
		ID: "prm_1", Issuer: aud, Audience: aud, IssuedAt: now.Unix(), Expires: now.Add(time.Minute).Unix(), Run: "run_1",
		Subject: "spiffe://cardea.local/wf/payroll/pay-run/task/do/0/timesheets", Purpose: "payroll/pay-run 1.2.0",
		Confirmation: Confirmation{Key: "thumb", Runner: "spiffe://cardea.local/runner/standard/a"},
		Context: Context{Process: "payroll", Task: "/do/0/timesheets", Action: "sha256:aa", Epoch: 1, Attempt: 1,
			Connections: []Connection{{Name: "hr"}}},
	}
}

func expect() Expect {
	return Expect{TrustDomain: "cardea.local", Runner: "spiffe://cardea.local/runner/standard/a", Key: "thumb", Now: now}
}

func TestVerify(t *testing.T) {
	pub, key, _ := ed25519.GenerateKey(nil)
	foreign, _, _ := ed25519.GenerateKey(nil)
	token, err := Sign(sample(), key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Verify(token, []ed25519.PublicKey{foreign, pub}, expect())
	if err != nil || got.Run != "run_1" {
		t.Fatalf("verify: %v", err)
	}
	refuse := func(name string, token string, keys []ed25519.PublicKey, change func(*Expect), want error) {
		t.Run(name, func(t *testing.T) {
			e := expect()
			if change != nil {
				change(&e)
			}
			_, err := Verify(token, keys, e)
			if err == nil || want != nil && !errors.Is(err, want) {
				t.Fatalf("error %v, want %v", err, want)
			}
		})
	}
	own := []ed25519.PublicKey{pub}
	refuse("foreign key", token, []ed25519.PublicKey{foreign}, nil, ErrSignature)
	refuse("no keys", token, nil, nil, ErrSignature)
	refuse("expired", token, own, func(e *Expect) { e.Now = now.Add(time.Minute) }, ErrExpired)
	refuse("another runner", token, own, func(e *Expect) { e.Runner += "b" }, ErrNotYours)
	refuse("another key", token, own, func(e *Expect) { e.Key = "other" }, ErrNotYours)
	refuse("no key", token, own, func(e *Expect) { e.Key = "" }, ErrNotYours)
	refuse("another hub", token, own, func(e *Expect) { e.TrustDomain = "else" }, nil)
	ticket, _ := SignJWS("cardea-ticket+jwt", sample(), key)
	refuse("another type", ticket, own, nil, nil)
	for i, name := range []string{"header", "claims", "signature"} {
		parts := strings.Split(token, ".")
		parts[i] = flip(parts[i])
		refuse("changed "+name, strings.Join(parts, "."), own, nil, nil)
	}
	none := encode([]byte(`{"alg":"none","typ":"`+Type+`"}`)) + "." + strings.Split(token, ".")[1] + "."
	refuse("alg none", none, own, nil, nil)
	extra, _ := SignJWS(Type, map[string]any{"jti": "prm_1", "admin": true}, key)
	refuse("unknown member", extra, own, nil, nil)
	refuse("too long", token+strings.Repeat("A", MaxToken), own, nil, nil)
}

func flip(s string) string {
	b := []byte(s)
	if b[10] == 'A' {
		b[10] = 'B'
	} else {
		b[10] = 'A'
	}
	return string(b)
}

func FuzzVerify(f *testing.F) {
	seed := make([]byte, ed25519.SeedSize)
	key := ed25519.NewKeyFromSeed(seed)
	token, _ := Sign(sample(), key)
	claims, _ := json.Marshal(sample())
	f.Add(token, claims)
	f.Fuzz(func(t *testing.T, token string, claims []byte) {
		keys := []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
		if p, err := Verify(token, keys, expect()); err == nil && p.Confirmation.Key != "thumb" {
			t.Fatal("a permit for another key was accepted")
		}
		var p Permit
		_ = decodePart(encode(claims), &p)
	})
}
