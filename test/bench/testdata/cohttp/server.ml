(* The server that the paper measured, as small as it gets: Cohttp on Lwt, one
   kilobyte for every request. *)
open Lwt.Infix

let page = String.concat "" (List.init 64 (fun _ -> "0123456789abcdef"))

let answer _conn _req body =
  Cohttp_lwt.Body.drain_body body >>= fun () ->
  Cohttp_lwt_unix.Server.respond_string ~status:`OK ~body:page ()

let () =
  let port = int_of_string Sys.argv.(1) in
  let server = Cohttp_lwt_unix.Server.make ~callback:answer () in
  Conduit_lwt_unix.init ~src:"127.0.0.1" () >>= (fun ctx ->
    let ctx = Cohttp_lwt_unix.Net.init ~ctx () in
    Cohttp_lwt_unix.Server.create ~ctx ~mode:(`TCP (`Port port)) server)
  |> Lwt_main.run
