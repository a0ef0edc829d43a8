//! One thread, one instruction, one result.

use simt::{Arg, Fault, Machine, Options};

/// A kernel with inputs `ra rb rc` (64 bits), `a b c` (32) and `ha hb hc` (16), and `code` between.
pub fn kernel(code: &str, result: &str) -> String {
    format!(
        ".version 8.0 .target sm_80 .address_size 64
         .visible .entry test(.param .u64 out, .param .u64 pa, .param .u64 pb, .param .u64 pc) {{
         .reg .b64 ra, rb, rc, rd, ptr; .reg .b32 a, b, c, d; .reg .b16 ha, hb, hc, hd;
         .reg .pred p, q;
         ld.param.u64 ptr, [out]; ld.param.u64 ra, [pa]; ld.param.u64 rb, [pb]; ld.param.u64 rc, [pc];
         cvt.u32.u64 a, ra; cvt.u32.u64 b, rb; cvt.u32.u64 c, rc;
         cvt.u16.u64 ha, ra; cvt.u16.u64 hb, rb; cvt.u16.u64 hc, rc;
         {code}
         {result} st.global.u64 [ptr], rd; ret; }}"
    )
}

/// Runs `line` on the inputs; the result is in the register its last instruction names first.
pub fn evaluate(options: &Options, line: &str, inputs: [u64; 3]) -> Result<u64, Fault> {
    let last = line.rsplit(';').next().unwrap_or("");
    let first = last.split_whitespace().nth(1).unwrap_or("").trim_end_matches(',');
    let result = match first {
        "d" | "{c" | "{d" => "cvt.u64.u32 rd, d;",
        "hd" => "cvt.u64.u16 rd, hd;",
        "p" | "p|q" => "selp.b64 rd, 1, 0, p;",
        _ => "",
    };
    let mut machine = Machine::new(options.clone());
    let module = machine.load(&kernel(&format!("{line};"), result)).expect("the snippet is PTX");
    let out = machine.alloc(8).expect("memory for the result");
    let [a, b, c] = inputs.map(Arg::U64);
    machine.launch(&module, "test", 1, 1, 0, &[Arg::Ptr(out), a, b, c])?;
    let mut bytes = [0; 8];
    machine.copy_out(out, &mut bytes).expect("the result is there");
    Ok(u64::from_le_bytes(bytes))
}
