package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	consiliumv1 "github.com/consilium-fl/consilium/proto/consilium/v1"
)

// services are all that a coordinator serves, but gRPC's own health check.
var services = []protoreflect.ServiceDescriptor{
	consiliumv1.File_consilium_v1_identity_proto.Services().Get(0),
	consiliumv1.File_consilium_v1_study_proto.Services().Get(0),
	consiliumv1.File_consilium_v1_round_proto.Services().Get(0),
	consiliumv1.File_consilium_v1_release_proto.Services().Get(0),
	consiliumv1.File_consilium_v1_audit_proto.Services().Get(0),
}

// calledAs are methods of transport.Client that have another name than their RPC, or none.
var calledAs = map[string]string{"LogReader": "ReadLog", "Close": "", "Reattest": ""}

// calls are the methods that package node calls, as its source has them.
func calls(src *source) (truth, error) {
	called, err := src.clientCalls("node")
	if err != nil {
		return truth{}, err
	}
	var want []string
	for _, c := range called {
		if name, ok := calledAs[c]; ok {
			c = name
		}
		if c != "" && !slices.Contains(want, c) {
			want = append(want, c)
		}
	}
	var t truth
	for _, s := range services {
		for i := range s.Methods().Len() {
			m := s.Methods().Get(i)
			at := slices.Index(want, string(m.Name()))
			if at < 0 {
				continue
			}
			want = slices.Delete(want, at, at+1)
			name := string(s.Name()) + "." + string(m.Name())
			kind := "unary"
			if m.IsStreamingClient() || m.IsStreamingServer() {
				kind = "stream"
			}
			t.fields = append(t.fields, field{name: name, kind: kind})
			t.uses = append(t.uses, name+"\t"+shortName(m.Input()))
		}
	}
	if len(want) > 0 {
		return t, fmt.Errorf("package node calls %s, which is no method of a service", strings.Join(want, ", "))
	}
	if len(t.fields) == 0 {
		return t, errors.New("package node calls nothing: is it still the one that dials?")
	}
	return t, nil
}

func protoMessage(name string) (truth, error) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName("consilium." + name))
	if err != nil {
		return truth{}, fmt.Errorf("looking for proto message %s: %w", name, err)
	}
	m, ok := d.(protoreflect.MessageDescriptor)
	if !ok {
		return truth{}, fmt.Errorf("%s is no message", name)
	}
	var t truth
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		kind := f.Kind().String()
		if f.IsList() {
			kind = "repeated " + kind
		}
		if f.Message() != nil {
			kind = shortName(f.Message())
			t.uses = append(t.uses, string(f.Name())+"\t"+kind)
		}
		t.fields = append(t.fields, field{name: string(f.Name()), key: strconv.Itoa(int(f.Number())), kind: kind})
	}
	return t, nil
}

func shortName(m protoreflect.MessageDescriptor) string {
	return strings.TrimPrefix(string(m.FullName()), "consilium.")
}
