use proptest::prelude::*;

use super::*;

/// Bytes as commands write them: text, broken text, anything.
fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        "[a-z\\n\"\\\\äß€\u{1f600}\u{1}]{0,9}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..5),
    ];
    proptest::collection::vec(piece, 0..most).prop_map(|pieces| pieces.concat())
}

fn text_bytes() -> impl Strategy<Value = Vec<u8>> {
    "[a-z\\n\"äß€\u{1f600}]{0,60}".prop_map(String::into_bytes)
}

/// As the keeper keeps it.
fn kept(all: &[u8], limit: usize) -> Kept {
    let head = &all[..all.len().min(limit.div_ceil(2))];
    let tail = &all[all.len() - (all.len() - head.len()).min(limit / 2)..];
    let dropped = (all.len() - head.len() - tail.len()) as u64;
    Kept { head: head.to_vec(), tail: tail.to_vec(), dropped }
}

fn size(output: &Output) -> usize {
    let size = |text: &Option<String>| encoded(text.as_deref().unwrap_or_default());
    size(&output.stdout) + size(&output.stderr)
}

proptest! {
    /// What is kept and what is dropped make the whole; nothing that is text is replaced.
    #[test]
    fn every_byte_of_a_text_counts_once(all in text_bytes(), limit in 0_usize..80, keep in 0_usize..80) {
        let (shown, dropped, lossy) = text(&kept(&all, limit), keep);
        prop_assert_eq!(shown.len() as u64 + dropped, all.len() as u64);
        let fits = dropped == 0 || shown.len() <= keep;
        prop_assert!(!lossy && fits);
        let all = String::from_utf8(all).unwrap();
        let cut = (0..=shown.len()).filter(|at| shown.is_char_boundary(*at));
        let found = cut.map(|at| shown.split_at(at)).any(|(head, tail)| all.starts_with(head) && all.ends_with(tail));
        prop_assert!(found, "{shown:?} of {all:?}");
    }

    /// The same of anything: what is replaced is kept.
    #[test]
    fn every_byte_counts_once(all in bytes(12), limit in 0_usize..60, keep in 0_usize..60) {
        let (shown, dropped, lossy) = text(&kept(&all, limit), keep);
        prop_assert!(dropped <= all.len() as u64);
        let kept_bytes = all.len() - dropped as usize;
        prop_assert!(kept_bytes <= keep || dropped == 0);
        // A cut costs a character at each of its two sides.
        let least = keep.min(limit).min(all.len()).saturating_sub(6);
        prop_assert!(kept_bytes >= least, "{kept_bytes} < {least}");
        prop_assert!(lossy || shown.len() == kept_bytes);
    }

    #[test]
    fn output_fits_into_its_room(out in bytes(60), err in bytes(60), limit in 0_usize..400, room in 4_usize..600) {
        let (stdout, stderr) = (kept(&out, limit), kept(&err, limit));
        let output = fit(&stdout, &stderr, room);
        prop_assert!(size(&output) <= room);
        if !output.lossy {
            let total = |text: &Option<String>, dropped: Option<u64>| {
                text.as_ref().map_or(0, String::len) as u64 + dropped.unwrap_or(0)
            };
            prop_assert_eq!(total(&output.stdout, output.stdout_dropped), out.len() as u64);
            prop_assert_eq!(total(&output.stderr, output.stderr_dropped), err.len() as u64);
        }
    }

    /// Pieces fit, and together they are the text, up to a character that has not ended.
    #[test]
    fn pieces_make_the_whole(all in text_bytes(), sizes in proptest::collection::vec(1_usize..9, 1..80)) {
        let (mut pieces, mut shown, mut left) = (Pieces::default(), String::new(), &all[..]);
        for (number, size) in sizes.iter().enumerate() {
            let (bytes, rest) = left.split_at((*size).min(left.len()));
            left = rest;
            let piece = Piece { bytes: bytes.to_vec(), dropped: 0 };
            let report = Report::of(State::InProgress, Timestamp::from_millis(0).unwrap());
            let report = pieces.next(report, piece, Piece::default(), 1000);
            prop_assert_eq!((report.chunk, report.output.lossy), (Some(number as u64), false));
            shown.push_str(report.output.stdout.as_deref().unwrap_or_default());
        }
        let sent = &all[..all.len() - left.len()];
        prop_assert!(sent.starts_with(shown.as_bytes()) && sent.len() - shown.len() < 4);
    }

    #[test]
    fn a_piece_fits_into_its_room(all in bytes(40), dropped in 0_u64..9, room in 0_usize..200) {
        let mut pieces = Pieces::default();
        let piece = Piece { bytes: all.clone(), dropped };
        let report = Report::of(State::InProgress, Timestamp::from_millis(0).unwrap());
        let output = pieces.next(report, piece, Piece::default(), room).output;
        let shown = output.stdout.as_deref().unwrap_or_default();
        prop_assert!(shown.is_empty() || encoded(shown) <= room / 2);
        if !output.lossy {
            let counted = shown.len() as u64 + output.stdout_dropped.unwrap_or(0) + pieces.rest[0].len() as u64;
            prop_assert_eq!(counted, all.len() as u64 + dropped);
        }
    }
}

fn outcome(status: State, change: impl FnOnce(&mut Report)) -> Outcome {
    let mut report = Report::of(status, Timestamp::from_millis(0).unwrap());
    change(&mut report);
    Outcome { bare: true, report }
}

#[test]
fn a_bare_answer_says_how_it_ended_where_its_output_does_not() {
    let wrote =
        |out: &str| Output { stdout: Some(out.to_owned()), stderr: Some(String::new()), ..Output::default() };
    let table = [
        (outcome(State::Success, |report| report.output = wrote("x")), "x"),
        (outcome(State::Success, |report| report.output = wrote("")), ""),
        (
            outcome(State::Failed, |report| (report.output, report.exit_code) = (wrote(""), Some(3))),
            "failed: exit code 3\n",
        ),
        (
            outcome(State::Failed, |report| {
                (report.output, report.exit_code) = (wrote("no such thing\n"), Some(3))
            }),
            "no such thing\n",
        ),
        (outcome(State::TimedOut, |report| report.output = wrote("begun")), "begun\ntimed_out\n"),
        (outcome(State::Rejected, |report| report.message = Some("busy".to_owned())), "rejected: busy\n"),
        (
            outcome(State::Success, |report| {
                report.output = Output { stdout_dropped: Some(2), stderr_dropped: Some(3), ..wrote("ab") };
            }),
            "ab\n[5 bytes are left out of the middle]\n",
        ),
    ];
    for (outcome, wanted) in table {
        assert_eq!(outcome.text(), wanted, "{outcome:?}");
    }
}

#[test]
fn in_brief_the_output_counts_as_dropped() {
    let whole = outcome(State::Failed, |report| {
        report.exit_code = Some(2);
        report.output =
            Output { stdout: Some("äb".to_owned()), stdout_dropped: Some(7), ..Output::default() };
        report.message = Some("ä".repeat(100));
    });
    let brief = brief(&to_raw_value(&whole).unwrap());
    let brief: Outcome = serde_json::from_str(brief.get()).unwrap();
    let report = &brief.report;
    assert_eq!((report.status, report.exit_code, brief.bare), (State::Failed, Some(2), true));
    assert_eq!((report.output.stdout.as_ref(), report.output.stdout_dropped), (None, Some(10)));
    assert!(report.message.as_ref().unwrap().len() <= 64);
}
