package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"time"
)

// figures are what is written as JSON, by the keys of docs/benchmarks.md. Keys are added, and never change their meaning.
type figures map[string]float64

// set keeps four digits: more would be noise.
func (f figures) set(key string, value float64) {
	if value != 0 && !math.IsNaN(value) && !math.IsInf(value, 0) {
		scale := math.Pow(10, 4-math.Ceil(math.Log10(math.Abs(value))))
		value = math.Round(value*scale) / scale
	}
	f[key] = value
}

func (f figures) write(path string) error {
	text, err := json.MarshalIndent(f, "", "  ") // the keys come sorted
	if err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	return nil
}

// quantile is the nearest-rank quantile of sorted durations; 0 of none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func sorted(d []time.Duration) []time.Duration {
	slices.Sort(d)
	return d
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
