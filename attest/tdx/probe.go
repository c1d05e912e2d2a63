package tdx

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/linuxtsm"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/intel"
)

// Finding is [attest.Finding].
type Finding = attest.Finding

const devicePath = "/dev/tdx_guest"

// Probe looks for what a TD needs in order to attest, and tries it: it has a quote made over random data, which is
// shown to nobody. The first finding says whether there is a way to a quote at all.
func Probe(ctx context.Context) []Finding {
	client, err := linuxtsm.MakeClient()
	_, errDevice := os.Stat(devicePath)
	return attester{client, ccelPath}.probe(ctx, err, errDevice)
}

func (a attester) probe(ctx context.Context, errTSM, errDevice error) []Finding {
	out := []Finding{{Name: "tdx", Text: "This machine cannot attest as a TD."}, {Name: devicePath, OK: errDevice == nil, Text: devicePath + " is there."}}
	if errDevice != nil {
		out[1].Text = "There is no " + devicePath + ": this is no TD, its kernel lacks the driver tdx_guest, or a paravisor stands between."
	}
	tsm := Finding{Name: "configfs-tsm", OK: true, Text: "Quotes are provided by " + provider + "."}
	if errTSM == nil {
		errTSM = a.available()
		if errTSM != nil {
			tsm.OK, tsm.Text = false, fmt.Sprintf("configfs-tsm does not serve: %v. It takes root.", errTSM)
		}
	} else {
		tsm.OK, tsm.Text = false, fmt.Sprintf("There is no %s/report: the kernel is older than 6.7, configfs is not mounted, or no driver provides quotes (%v).", configfsi.TsmPrefix, errTSM)
	}
	out = append(out, tsm)
	if errTSM != nil {
		return out
	}
	out[0].OK, out[0].Text = true, "This is a TD; it asks for quotes by configfs-tsm."
	return append(out, a.probeQuote(ctx)...)
}

func (a attester) probeQuote(ctx context.Context) []Finding {
	var data [64]byte
	_, _ = rand.Read(data[:]) // which never fails
	claims, e, err := a.quote(ctx, data)
	if err != nil {
		return []Finding{{Name: "quote", Text: fmt.Sprintf("No quote was made: %v. The host has to run a quote generation service.", err)}}
	}
	out := []Finding{{Name: "quote", OK: true, Text: fmt.Sprintf("The quoting enclave signs quotes of version %d, on a platform of FMSPC %s; TDX module %d.%d.", claims.QuoteVersion, claims.FMSPC, claims.TEETCBSVN[1], claims.TEETCBSVN[0])}}
	out = append(out, probeDebug(claims.Attributes), probeEventLog(claims, e.Endorsements[attest.CCEL]))
	return append(out, Finding{Name: "tcb", OK: true, Text: fmt.Sprintf("Whether the platform is up to date only Intel's TCB info of FMSPC %s says, which whoever verifies needs in the trust folder.", claims.FMSPC)})
}

func probeDebug(attributes attest.HexBytes) Finding {
	if attributes[0] != 0 {
		return Finding{Name: "debug", Text: fmt.Sprintf("The host may read this TD: its attributes are %s, and everybody will refuse it.", attributes)}
	}
	return Finding{Name: "debug", OK: true, Text: fmt.Sprintf("The host may not debug this TD; its attributes are %s.", attributes)}
}

func probeEventLog(claims *attest.TDXClaims, log []byte) Finding {
	f := Finding{Name: "event log"}
	if log == nil {
		f.Text = "There is no " + ccelPath + ": a policy has to list the registers' values, for none can be explained."
		return f
	}
	replayed, err := intel.Replay(log)
	if err != nil {
		f.Text = fmt.Sprintf("The event log cannot be read: %v. Whoever verifies will refuse it.", err)
		return f
	}
	f.OK, f.Text = true, fmt.Sprintf("The event log of %d bytes leads to the registers that it names.", len(log))
	for i, want := range replayed.Replay {
		if want != nil && want.String() != claims.RTMR[i].String() {
			f.OK, f.Text = false, fmt.Sprintf("The event log leads to another value of RTMR%d than the TD has: something measured and wrote no event, and whoever verifies will refuse it.", i)
		}
	}
	return f
}
