package snp

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/linuxtsm"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/amd"
)

// Finding is [attest.Finding].
type Finding = attest.Finding

// Probe looks for what an SNP guest needs in order to attest, and tries it: it has the secure processor sign a report
// over random data, which is shown to nobody. The first finding says whether there is a way to the processor at all.
func Probe(ctx context.Context) []Finding {
	client, err := linuxtsm.MakeClient()
	_, errDevice := os.Stat(devicePath)
	return probe(ctx, client, err, errDevice, openDevice)
}

func probe(ctx context.Context, client configfsi.Client, errTSM, errDevice error, open func() (device, error)) []Finding {
	s, out := probeTSM(client, errTSM)
	f := Finding{Name: devicePath, OK: errDevice == nil, Text: devicePath + " is there."}
	if errDevice != nil {
		f.Text = "There is no " + devicePath + ": this is no SNP guest, or its kernel lacks the driver sev-guest."
	} else if s == nil {
		dev, err := open()
		if err != nil {
			f.OK, f.Text = false, fmt.Sprintf("%s cannot be opened: %v. It takes root, or membership of its group.", devicePath, err)
		} else {
			s = dev
		}
	}
	out = append(out, f)
	if s == nil {
		return slices.Insert(out, 0, Finding{Name: "snp", Text: "This machine cannot attest as an SNP guest."})
	}
	return slices.Insert(append(out, probeReport(ctx, s)...), 0, Finding{Name: "snp", OK: true, Text: "This is an SNP guest; it asks for reports by " + s.name() + "."})
}

func probeTSM(client configfsi.Client, err error) (source, []Finding) {
	f := Finding{Name: "configfs-tsm"}
	if err != nil {
		f.Text = fmt.Sprintf("There is no %s/report: the kernel is older than 6.7, configfs is not mounted, or no driver provides reports (%v).", configfsi.TsmPrefix, err)
		return nil, []Finding{f}
	}
	t := tsm{client}
	name, floor, err := t.describe()
	if err != nil {
		f.Text = fmt.Sprintf("configfs-tsm does not serve: %v. It takes root.", err)
		return nil, []Finding{f}
	}
	f.OK, f.Text = true, fmt.Sprintf("Reports are provided by %s, from privilege level %d on.", name, floor)
	return t, []Finding{f}
}

func probeReport(ctx context.Context, s source) []Finding {
	var data [64]byte
	_, _ = rand.Read(data[:]) // which never fails
	r, e, err := attester{s, LowestLevel}.quote(ctx, data)
	if err != nil {
		return []Finding{{Name: "report", Text: fmt.Sprintf("The secure processor made no report: %v.", err)}}
	}
	return []Finding{
		{Name: "report", OK: true, Text: fmt.Sprintf("The secure processor signs reports of version %d by its %s, from privilege level %d, on a CPU %s.", r.Version, strings.ToUpper(r.Signer), r.VMPL, r.CPU)},
		probeCertificate(r, e.Endorsements),
		probeDebug(r),
		probeFirmware(r),
	}
}

func probeCertificate(r *amd.Report, certificates map[string][]byte) Finding {
	f := Finding{Name: "certificate", OK: certificates[r.Signer] != nil}
	if f.OK {
		f.Text = fmt.Sprintf("The host hands out %s.", strings.Join(slices.Sorted(maps.Keys(certificates)), ", "))
	} else {
		f.Text = fmt.Sprintf("The host hands out no %s: whoever verifies needs it in the trust folder, for chip %s at %+v.", strings.ToUpper(r.Signer), r.ChipID, r.TCB.Reported)
	}
	return f
}

func probeDebug(r *amd.Report) Finding {
	if r.GuestPolicy.Debug() {
		return Finding{Name: "debug", Text: "The host may read this guest: its policy allows debugging, and everybody will refuse it."}
	}
	return Finding{Name: "debug", OK: true, Text: "The host may not debug this guest."}
}

func probeFirmware(r *amd.Report) Finding {
	f := Finding{Name: "firmware", OK: r.TCB.Committed == r.TCB.Current, Text: fmt.Sprintf("SNP firmware %s, patch levels %+v.", r.CurrentFirmware, r.TCB.Reported)}
	if !f.OK {
		f.Text += fmt.Sprintf(" The host may still roll back to %+v; a policy has to say provisional.", r.TCB.Committed)
	}
	for _, a := range r.OpenAdvisories() {
		f.OK = false
		f.Text += fmt.Sprintf(" %s is open: %s is at %d, want %d.", a.ID, a.Component, a.Got, a.Want)
	}
	return f
}
