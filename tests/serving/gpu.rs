//! The real server on the emulated driver: answers, and what becomes of them when the device fails.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixtures::{library, tiny_model};
use crate::support::{Server, rerankd, tiny_bert};

/// A folder that holds the emulator under the driver's name, for the library path.
fn driver() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(library(), folder.path().join("libcuda.so")).unwrap();
    folder
}

/// The server's command on the tiny model, with the emulator's switches.
fn serve(driver: &Path, model: &Path, switches: &[(&str, &str)]) -> Command {
    let mut command = rerankd();
    command.env("LD_LIBRARY_PATH", driver).envs(switches.iter().copied());
    command.args(["serve", "--port", "0", "--device", "cuda", "--max-batch-tokens", "1024"]);
    // Every request is to reach the device.
    command.args(["--score-cache-bytes", "0"]);
    command.arg("--model").arg(model);
    command
}

/// A server that is ready, and the folders that live as long.
struct Running {
    server: Server,
    _folders: [tempfile::TempDir; 2],
}

fn start(switches: &[(&str, &str)], args: &[&str]) -> Running {
    let (driver, model) = (driver(), tiny_model());
    let mut command = serve(driver.path(), model.path(), switches);
    command.args(args);
    Running { server: Server::spawn(command).when_ready(), _folders: [driver, model] }
}

fn request() -> Value {
    json!({"query": "a b", "documents": ["c d e", "a b", "f"], "return_documents": false})
}

/// Runs a server that must not come up.
fn refused(switches: &[(&str, &str)]) -> Output {
    let (driver, model) = (driver(), tiny_model());
    run(serve(driver.path(), model.path(), switches))
}

/// A command to its end. One that serves instead of failing is ended here, for the test to fail.
fn run(mut command: Command) -> Output {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    for _ in 0..6000 {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Fails only if the process has ended already.
    let _ = child.kill();
    child.wait_with_output().unwrap()
}

#[track_caller]
fn assert_refused(output: &Output, reason: &str) {
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains(reason), "no '{reason}' in {log}");
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(output.status.code(), Some(1), "{log}");
}

#[test]
fn requests_are_answered_from_the_gpu() {
    let on_gpu = start(&[], &[]);
    let info = on_gpu.server.get("/info").json();
    assert_eq!(info["model_dtype"], "float16", "{info}");
    let answer = on_gpu.server.post("/v2/rerank", &request());
    assert_eq!(answer.status, 200, "{}", answer.text);

    let model = tiny_model();
    let mut command = rerankd();
    command.args(["serve", "--port", "0", "--device", "cpu", "--model"]).arg(model.path());
    let on_cpu = Server::spawn(command).when_ready();
    let expected = on_cpu.post("/v2/rerank", &request()).json();
    for (got, expected) in answer.json()["results"]
        .as_array()
        .unwrap()
        .iter()
        .zip(expected["results"].as_array().unwrap())
    {
        assert_eq!(got["index"], expected["index"]);
        let score = |result: &Value| result["relevance_score"].as_f64().unwrap();
        assert!((score(got) - score(expected)).abs() < 2e-3, "{got}, not {expected}");
    }
}

#[test]
fn two_gpus_serve_one_queue() {
    let running = start(&[("SIMT_DEVICES", "2")], &[]);
    let server = &running.server;
    server.logs("simt PTX emulator, simt PTX emulator");
    let expected = server.post("/rerank", &request()).json()["results"].clone();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let answer = server.post("/rerank", &request());
                    assert_eq!(answer.json()["results"], expected, "the same bits from both");
                }
            });
        }
    });
}

#[test]
fn hopper_serves_with_its_own_product() {
    let running = start(&[("SIMT_CC", "90")], &[]);
    assert_eq!(running.server.post("/rerank", &request()).status, 200);
}

/// A server whose library path also has the emulated cuBLASLt.
fn start_with_cublaslt(switches: &[(&str, &str)]) -> Running {
    let (driver, model) = (driver(), tiny_model());
    let cublaslt = driver.path().join("libcublasLt.so");
    std::os::unix::fs::symlink(library(), cublaslt).unwrap();
    let mut command = serve(driver.path(), model.path(), switches);
    command.args(["--batch-invariant", "false"]);
    Running { server: Server::spawn(command).when_ready(), _folders: [driver, model] }
}

#[test]
fn cublaslt_is_used_only_where_it_agrees() {
    let (ours, theirs) = (start(&[], &[]), start_with_cublaslt(&[]));
    theirs.server.logs("\"num_chosen\":");
    assert!(!theirs.server.logged("\"num_chosen\":0"), "it is faster than emulated kernels");
    let score = |running: &Running| {
        let answer = running.server.post("/rerank", &request()).json();
        answer["results"][0]["relevance_score"].as_f64().unwrap()
    };
    assert!((score(&ours) - score(&theirs)).abs() < 2e-3);

    let wrong = start_with_cublaslt(&[("SIMT_CUBLASLT_WRONG", "1")]);
    wrong.server.logs("\"num_chosen\":0");
    assert_eq!(score(&wrong), score(&ours), "our own products, bit for bit");
}

#[test]
fn a_driver_without_memory_pools_serves() {
    let running = start(&[("SIMT_POOLS", "0")], &[]);
    assert_eq!(running.server.post("/rerank", &request()).status, 200);
}

#[test]
fn what_cannot_compute_is_refused_with_the_way_out() {
    assert_refused(&refused(&[("SIMT_DEVICES", "0")]), "the NVIDIA driver finds no GPU");
    assert_refused(&refused(&[("SIMT_DRIVER", "11020")]), "it knows CUDA 11.2");
    assert_refused(&refused(&[("SIMT_CC", "75")]), "compute capability 7.5; 8.0 (Ampere)");
    assert_refused(&refused(&[("SIMT_PTX", "6.5")]), "CUDA_ERROR_UNSUPPORTED_PTX_VERSION");
    let little = refused(&[("SIMT_MEMORY", "1000000")]);
    assert_refused(&little, "not enough memory");
    assert_refused(&refused(&[("SIMT_FAIL_ALLOC", "9")]), "out of memory");
    assert_refused(&refused(&[("SIMT_FAIL_LAUNCH", "1")]), "cannot load the model");
}

#[test]
fn without_a_driver_cuda_is_refused_and_auto_computes_on_the_cpu() {
    let empty = tempfile::tempdir().unwrap();
    let model = tiny_model();
    assert_refused(&run(serve(empty.path(), model.path(), &[])), "no NVIDIA driver");

    let mut command = rerankd();
    command.env("LD_LIBRARY_PATH", empty.path());
    command.args(["serve", "--port", "0", "--device", "auto", "--model"]).arg(model.path());
    let server = Server::spawn(command).when_ready();
    server.logs("computing on the CPU");
    server.logs("no NVIDIA driver");
    assert_eq!(server.post("/rerank", &request()).status, 200);
}

#[test]
fn several_models_take_turns_on_one_gpu() {
    let (driver, pairs) = (driver(), tiny_model());
    let late = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-colbert");
    let model = |name: &str, folder: &Path| format!("{name}={}", folder.display());
    let serve = |device: &str, dtype: &str| {
        let mut command = rerankd();
        command.env("LD_LIBRARY_PATH", driver.path()).args(["serve", "--port", "0"]);
        command.args(["--device", device, "--dtype", dtype, "--max-batch-tokens", "1024"]);
        // Every request is to reach the device.
        command.args(["--score-cache-bytes", "0", "--matrix-memory-bytes", "0"]);
        command.args(["--model", &model("pairs", pairs.path()), "--model", &model("late", &late)]);
        Server::spawn(command).when_ready()
    };
    let scores = |server: &Server, model: &str| -> Vec<f64> {
        let documents = ["river stone market", "winter engine", "a b"];
        let body = json!({"model": model, "query": "river stone", "documents": documents});
        let answer = server.post("/v2/rerank", &body);
        assert_eq!(answer.status, 200, "{model}: {}", answer.text);
        let mut results = answer.json()["results"].as_array().unwrap().clone();
        results.sort_by_key(|result| result["index"].as_u64());
        results.iter().map(|result| result["relevance_score"].as_f64().unwrap()).collect()
    };
    let (gpu, cpu) = (serve("cuda", "auto"), serve("cpu", "f32"));
    let alone = ["pairs", "late"].map(|model| scores(&gpu, model));
    for (model, alone) in ["pairs", "late"].iter().zip(&alone) {
        let expected = scores(&cpu, model);
        let off = alone.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < 5e-3, "{model}: {alone:?} for {expected:?}");
    }
    std::thread::scope(|scope| {
        for (model, alone) in ["pairs", "late"].iter().zip(&alone) {
            for _ in 0..2 {
                scope.spawn(|| (0..3).for_each(|_| assert_eq!(scores(&gpu, model), *alone)));
            }
        }
    });
}

#[test]
fn auto_takes_the_gpu() {
    let (driver, model) = (driver(), tiny_model());
    let mut command = rerankd();
    command.env("LD_LIBRARY_PATH", driver.path());
    command.args(["serve", "--port", "0", "--max-batch-tokens", "1024", "--model"]);
    command.arg(model.path());
    let server = Server::spawn(command).when_ready();
    assert_eq!(server.get("/info").json()["model_dtype"], "float16");
}

#[test]
fn auto_computes_on_the_cpu_what_the_gpu_cannot() {
    let driver = driver();
    let mut command = rerankd();
    command.env("LD_LIBRARY_PATH", driver.path());
    // Heads of 16 have no kernel.
    command
        .args(["serve", "--port", "0", "--max-batch-tokens", "1024", "--model"])
        .arg(tiny_bert());
    let server = Server::spawn(command).when_ready();
    server.logs("heads of 16 are not supported");
    server.logs("computing on the CPU");
    assert_eq!(server.get("/info").json()["model_dtype"], "float32");
}

/// Past the launches of loading, most of which are the self-check's.
const AFTER_LOAD: &str = "161";

#[test]
fn a_refused_launch_costs_its_own_request_a_503() {
    let running = start(&[("SIMT_FAIL_LAUNCH", AFTER_LOAD)], &[]);
    let server = &running.server;
    let mut statuses = Vec::new();
    for _ in 0..20 {
        let answer = server.post("/rerank", &request());
        if answer.status != 200 {
            assert_eq!(answer.header("retry-after"), "1");
        }
        statuses.push(answer.status);
    }
    let failed = statuses.iter().filter(|status| **status == 503).count();
    assert_eq!(failed, 1, "{statuses:?}");
    assert_eq!(server.metric("rerank_device_faults_total"), 1.0);
    assert_eq!(server.get("/ready").status, 200);
}

/// Sends requests until the device is lost; what came back before the server ended.
fn run_until_lost(mut running: Running) {
    let mut answers = Vec::new();
    for _ in 0..20 {
        let answer = running.server.post("/rerank", &request());
        answers.push(answer.status);
        if answer.status == 503 {
            assert!(answer.headers.contains_key("retry-after"), "{}", answer.text);
            break;
        }
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    assert_eq!(answers.last(), Some(&503), "the fault was met: {answers:?}");
    running.server.logs("ended for want of a device");
    assert_eq!(running.server.wait().code(), Some(1), "a supervisor starts it anew");
    assert!(!running.server.logged("panicked"));
}

#[test]
fn a_sticky_fault_ends_the_process_after_its_answers() {
    run_until_lost(start(&[("SIMT_FAULT_LAUNCH", AFTER_LOAD)], &["--drain-timeout-ms", "2000"]));
}

#[test]
fn a_device_that_hangs_ends_the_process_after_its_answers() {
    let switches = [("SIMT_HANG_LAUNCH", AFTER_LOAD), ("SIMT_HANG_MS", "3000")];
    let args = ["--device-timeout-ms", "500", "--drain-timeout-ms", "2000"];
    run_until_lost(start(&switches, &args));
}
