package services

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/consilium-fl/consilium/attest/testtee/amd"
)

// AMD answers as AMD's Key Distribution Service does (AMD 57230, chapter 4), for the chip of each line of a world.
type AMD struct {
	world *amd.World

	mu    sync.Mutex
	lists map[string][]byte
	vceks map[string][]byte // by path and levels
}

// NewAMD is one whose lists have nobody on them.
func NewAMD(w *amd.World) *AMD {
	a := &AMD{world: w, lists: map[string][]byte{}, vceks: map[string][]byte{}}
	for _, line := range []string{amd.Milan, amd.Genoa, amd.Turin} {
		a.lists[line] = w.CRL(line, amd.From, amd.Until)
		report, endorsements := w.Report(amd.Options{Line: line})
		a.vceks[address(line, report)] = endorsements["vcek"]
	}
	return a
}

// address is where the certificate of a report's chip at its reported levels is.
func address(line string, report []byte) string {
	t, chip := report[0x180:0x188], report[0x1a0:0x1e0]
	levels := fmt.Sprintf("blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", t[0], t[1], t[6], t[7])
	if line == amd.Turin {
		chip = chip[:8]
		levels = fmt.Sprintf("fmcSPL=%02d&blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", t[0], t[1], t[2], t[3], t[7])
	}
	return "/vcek/v1/" + line + "/" + hex.EncodeToString(chip) + "?" + levels
}

// SetList replaces the revocation list of a line's root.
func (a *AMD) SetList(line string, der []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lists[line] = der
}

// ServeHTTP answers one request.
func (a *AMD) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if der := a.vceks[r.URL.RequestURI()]; der != nil {
		Put(w, der)
		return
	}
	kind, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/v1/")
	line, what, _ := strings.Cut(rest, "/")
	if r.Host != "kdsintf.amd.com" && !strings.HasPrefix(r.Host, "127.0.0.1:") || a.lists[line] == nil {
		http.NotFound(w, r)
		return
	}
	switch kind + " " + what {
	case "vcek crl", "vlek crl":
		Put(w, a.lists[line])
	case "vcek cert_chain":
		Put(w, slices.Concat(amd.PEM(a.world.ASK(line)), amd.PEM(a.world.ARK(line))))
	case "vlek cert_chain":
		Put(w, slices.Concat(amd.PEM(a.world.ASVK(line)), amd.PEM(a.world.ARK(line))))
	default:
		http.NotFound(w, r)
	}
}
