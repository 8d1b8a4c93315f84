package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSourcesOfAnotherRelease(t *testing.T) {
	const targets = `http://mirror/debian/ bookworm main
http://mirror/debian/ bookworm-updates main
http://mirror/debian/ bookworm contrib
http://mirror/debian/ bookworm-backports main
http://mirror/debian-security/ bookworm-security main
http://mirror/debian-security/ bookworm-security main
https://elsewhere/node nodistro main
https://elsewhere/apt bookwormish main
half a
`
	want := []string{
		"deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror/debian/ trixie main",
		"deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror/debian/ trixie-updates main",
		"deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror/debian-security/ trixie-security main",
	}
	if diff := cmp.Diff(want, sourcesOf(targets, "bookworm", "trixie")); diff != "" {
		t.Errorf("sourcesOf (-want +got):\n%s", diff)
	}
}
