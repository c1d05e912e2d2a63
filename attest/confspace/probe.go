package confspace

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/consilium-fl/consilium/attest"
)

// Finding is [attest.Finding].
type Finding = attest.Finding

// Probe says how far a container can attest through the launcher behind a socket. It asks for a token of its own,
// over a random nonce, and believes what it says: nothing here is verified.
func Probe(ctx context.Context, socket, audience string) []Finding {
	const place, answers = "confidential space", "confidential space token"
	info, err := os.Stat(socket)
	switch {
	case err != nil:
		return []Finding{{Name: place, Text: fmt.Sprintf("There is no launcher at %s, so this is no container of Confidential Space: %v.", socket, err)}}
	case info.Mode().Type() != os.ModeSocket:
		return []Finding{{Name: place, Text: fmt.Sprintf("%s is a %s, where the launcher would have a socket.", socket, info.Mode().Type())}}
	}
	out := []Finding{{Name: place, OK: true, Text: fmt.Sprintf("The launcher of Confidential Space has a socket at %s.", socket)}}
	var nonce [32]byte
	_, _ = rand.Read(nonce[:]) // never fails, see crypto/rand
	raw, err := newLauncher(attest.FormatCSPKI, socket, audience).token(ctx, hex.EncodeToString(nonce[:]))
	if err != nil {
		return append(out, Finding{Name: answers, Text: fmt.Sprintf("The launcher gives no token: %v.", err)})
	}
	t, err := parse(raw)
	if err != nil {
		return append(out, Finding{Name: answers, Text: fmt.Sprintf("The launcher's token cannot be read: %v.", err)})
	}
	w := t.workload()
	out = append(out, Finding{Name: answers, OK: true, Text: fmt.Sprintf("The launcher gives tokens of %d bytes for the audience %q.", len(raw), audience)})
	for _, r := range *t.wrong {
		out = append(out, Finding{Name: answers, Text: fmt.Sprintf("The token is not as expected: %v.", r)})
	}
	return append(out, machine(w), image(w), overrides(w))
}

func machine(w *attest.WorkloadClaims) Finding {
	f := Finding{Name: "hardware", OK: w.HWModel == attest.HWModelTDX, Text: fmt.Sprintf("The machine is %s in zone %s of project %s", w.HWModel, w.GCE.Zone, w.GCE.ProjectID)}
	if f.OK {
		f.Text += ": Google verifies a quote of its TDX module before it signs a token."
	} else {
		f.Text += ": no quote of the chip stands behind its tokens, and policies that ask for " + attest.HWModelTDX + " refuse them."
	}
	return f
}

func image(w *attest.WorkloadClaims) Finding {
	f := Finding{Name: "operating system", OK: !w.Debug() && len(w.SupportAttributes) > 0, Text: fmt.Sprintf("The image is %s %s", w.SWName, strings.Join(w.SWVersion, " "))}
	switch {
	case w.Debug():
		f.Text += ", for debugging: its operator can look into it, and every policy refuses it."
	case !f.OK:
		f.Text += ", which Google no longer supports."
	default:
		f.Text += ", of Google's " + strings.Join(w.SupportAttributes, ", ") + "."
	}
	return f
}

func overrides(w *attest.WorkloadClaims) Finding {
	n := len(w.Container.EnvOverride) + len(w.Container.CmdOverride)
	f := Finding{Name: "container", OK: n == 0, Text: fmt.Sprintf("The container is %s", w.Container.Digest)}
	if f.OK {
		f.Text += ", started as it was built."
	} else {
		f.Text += fmt.Sprintf(", and the operator chose %d of its variables and arguments: a policy has to list them.", n)
	}
	return f
}
