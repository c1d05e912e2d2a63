package intake

import (
	"encoding/binary"
	"slices"

	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-tdx-guest/proto/tdx"
	pb "github.com/google/go-tpm-tools/proto/attest"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// decoder reads a message of one of the three encodings.
type decoder func(proto.Message) error

func binaryMessage(b []byte) []piece {
	const least = 512 // of any that has a signature
	if len(b) < least {
		return nil
	}
	ps := message(func(m proto.Message) error { return proto.Unmarshal(b, m) })
	if len(ps) == 1 && ps[0].kind == tpmAttestation {
		ps[0].b = b // as it came: the verifier takes it strictly
	}
	return ps
}

// textMessage says whether b is one in the text format of protocol buffers.
func (s *search) textMessage(b []byte) bool {
	return s.add(message(func(m proto.Message) error { return prototext.Unmarshal(b, m) })...)
}

// jsonMessage takes an object that has the names of one.
func jsonMessage(o map[string]any) []piece {
	has := func(names ...string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return o[n] != nil })
	}
	if !has("quotes") && !has("signerInfo", "signer_info", "signatureAlgo", "signature_algo") && !has("tdQuoteBody", "td_quote_body") {
		return nil
	}
	b := written(o)
	return message(func(m proto.Message) error { return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m) })
}

// message knows what go-sev-guest, go-tdx-guest and gotpm write. The bytes that the hardware signed are put together
// again; whatever is wrong in them breaks the signature. Those of go-tpm-tools would take some of the others for their
// own, and come last.
func message(decode decoder) []piece {
	var (
		report      sevsnp.Report
		attestation sevsnp.Attestation
		quote       tdx.QuoteV4
		tpm         pb.Attestation
	)
	if decode(&report) == nil {
		if b := reportOf(&report); b != nil {
			return []piece{{kind: snpReport, b: b}}
		}
	}
	if decode(&attestation) == nil {
		if b := reportOf(attestation.GetReport()); b != nil {
			ps := []piece{{kind: snpReport, b: b}}
			chain := attestation.GetCertificateChain()
			for _, der := range [][]byte{chain.GetVcekCert(), chain.GetVlekCert(), chain.GetAskCert(), chain.GetArkCert()} {
				if len(der) > 0 {
					ps = append(ps, piece{kind: certificate, b: der})
				}
			}
			return ps
		}
	}
	if decode(&quote) == nil && len(quote.GetTdQuoteBody().GetMrTd()) == 48 {
		return []piece{{kind: tdxQuote, b: quoteOf(&quote)}}
	}
	if decode(&tpm) == nil && len(tpm.GetQuotes()) > 0 && len(tpm.GetAkPub()) > 0 {
		if b, err := proto.Marshal(&tpm); err == nil {
			return []piece{{kind: tpmAttestation, b: b}}
		}
	}
	return nil
}

// reportOf writes a report from its message, nil when the sizes are not those of one.
func reportOf(r *sevsnp.Report) []byte {
	b := make([]byte, reportSize)
	for _, f := range []struct {
		at, size int
		v        []byte
	}{
		{0x10, 16, r.GetFamilyId()},
		{0x20, 16, r.GetImageId()},
		{0x50, 64, r.GetReportData()},
		{0x90, 48, r.GetMeasurement()},
		{0xc0, 32, r.GetHostData()},
		{0xe0, 48, r.GetIdKeyDigest()},
		{0x110, 48, r.GetAuthorKeyDigest()},
		{0x140, 32, r.GetReportId()},
		{0x160, 32, r.GetReportIdMa()},
		{0x1a0, 64, r.GetChipId()},
		{0x2a0, 512, r.GetSignature()},
	} {
		if len(f.v) != f.size {
			return nil
		}
		copy(b[f.at:], f.v)
	}
	le := binary.LittleEndian
	for at, v := range map[int]uint32{0: r.GetVersion(), 0x04: r.GetGuestSvn(), 0x30: r.GetVmpl(), 0x34: r.GetSignatureAlgo(), 0x48: r.GetSignerInfo()} {
		le.PutUint32(b[at:], v)
	}
	for at, v := range map[int]uint64{
		0x08: r.GetPolicy(), 0x38: r.GetCurrentTcb(), 0x40: r.GetPlatformInfo(), 0x180: r.GetReportedTcb(), 0x1e0: r.GetCommittedTcb(),
		0x1f0: r.GetLaunchTcb(), 0x1f8: r.GetLaunchMitVector(), 0x200: r.GetCurrentMitVector(),
	} {
		le.PutUint64(b[at:], v)
	}
	if r.GetVersion() >= 3 { // CPUID leaf 1, EAX: family and model are in two parts each
		eax := r.GetCpuid1EaxFms()
		b[0x188], b[0x189], b[0x18a] = byte(eax>>8&0xf)+byte(eax>>20), byte(eax>>12&0xf0|eax>>4&0xf), byte(eax&0xf)
	}
	for at, v := range map[int]uint32{
		0x1e8: r.GetCurrentBuild(), 0x1e9: r.GetCurrentMinor(), 0x1ea: r.GetCurrentMajor(),
		0x1ec: r.GetCommittedBuild(), 0x1ed: r.GetCommittedMinor(), 0x1ee: r.GetCommittedMajor(),
	} {
		b[at] = byte(v)
	}
	return b
}

// quoteOf writes a quote of version 4 from its message.
func quoteOf(q *tdx.QuoteV4) []byte {
	le := binary.LittleEndian
	h, t, s := q.GetHeader(), q.GetTdQuoteBody(), q.GetSignedData()
	b := le.AppendUint16(nil, uint16(h.GetVersion()))
	b = le.AppendUint16(b, uint16(h.GetAttestationKeyType()))
	b = le.AppendUint32(b, h.GetTeeType())
	b = append(b, slices.Concat(h.GetPceSvn(), h.GetQeSvn(), h.GetQeVendorId(), h.GetUserData())...)
	b = append(b, slices.Concat(
		t.GetTeeTcbSvn(), t.GetMrSeam(), t.GetMrSignerSeam(), t.GetSeamAttributes(), t.GetTdAttributes(), t.GetXfam(),
		t.GetMrTd(), t.GetMrConfigId(), t.GetMrOwner(), t.GetMrOwnerConfig(), slices.Concat(t.GetRtmrs()...), t.GetReportData(),
	)...)
	b = le.AppendUint32(b, q.GetSignedDataSize())
	b = append(b, slices.Concat(s.GetSignature(), s.GetEcdsaAttestationKey())...)
	cert := s.GetCertificationData()
	b = le.AppendUint16(b, uint16(cert.GetCertificateDataType()))
	b = le.AppendUint32(b, cert.GetSize())
	qe := cert.GetQeReportCertificationData()
	b = append(append(b, enclaveReportOf(qe.GetQeReport())...), qe.GetQeReportSignature()...)
	b = le.AppendUint16(b, uint16(qe.GetQeAuthData().GetParsedDataSize()))
	b = append(b, qe.GetQeAuthData().GetData()...)
	pck := qe.GetPckCertificateChainData()
	b = le.AppendUint16(b, uint16(pck.GetCertificateDataType()))
	b = le.AppendUint32(b, pck.GetSize())
	return append(append(b, pck.GetPckCertChain()...), q.GetExtraBytes()...)
}

func enclaveReportOf(r *tdx.EnclaveReport) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(slices.Clone(r.GetCpuSvn()), r.GetMiscSelect())
	b = append(b, slices.Concat(r.GetReserved1(), r.GetAttributes(), r.GetMrEnclave(), r.GetReserved2(), r.GetMrSigner(), r.GetReserved3())...)
	b = le.AppendUint16(b, uint16(r.GetIsvProdId()))
	b = le.AppendUint16(b, uint16(r.GetIsvSvn()))
	return append(append(b, r.GetReserved4()...), r.GetReportData()...)
}
